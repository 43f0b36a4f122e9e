from http import HTTPStatus
from typing import Any

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.list_open_charges_status import ListOpenChargesStatus
from ...models.open_charge_page import OpenChargePage
from ...types import UNSET, Response, Unset


def _get_kwargs(
    *,
    status: ListOpenChargesStatus,
    cursor: str | Unset = UNSET,
) -> dict[str, Any]:

    params: dict[str, Any] = {}

    json_status: str = status
    params["status"] = json_status

    params["cursor"] = cursor

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/admin/billing/charges",
        "params": params,
    }

    return _kwargs


def _parse_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> OpenChargePage | None:
    if response.status_code == 200:
        response_200 = OpenChargePage.from_dict(response.json())

        return response_200

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Response[OpenChargePage]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    *,
    client: AuthenticatedClient,
    status: ListOpenChargesStatus,
    cursor: str | Unset = UNSET,
) -> Response[OpenChargePage]:
    """Lists the charges of all customers that are not settled.

    Args:
        status (ListOpenChargesStatus): State of an open charge: one that is not settled.
        cursor (str | Unset): Opaque position in one list. It is valid for that list only.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[OpenChargePage]
    """

    kwargs = _get_kwargs(
        status=status,
        cursor=cursor,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)
